"""The training texts of every base emoji, for the scripts that work on text alone."""

from mlxflow.data.captions_split import Caption, load_captions
from mlxflow.data.cldr import load_emoji


def training_texts() -> dict[str, list[str]]:
    """By code points: name, all keywords as one text, training prompts, visual description.

    Emoji without captions (most flags) have name and keywords only. No held-out prompt is among them.
    """
    captions, emoji = load_captions(), load_emoji()
    texts = {}
    for code in dict.fromkeys((*captions, *(code for code, entry in emoji.items() if entry.base == code))):
        caption: Caption | None = captions.get(code)
        own = []
        if code in emoji:
            own += [emoji[code].name, " ".join(emoji[code].keywords)]
        if caption:
            own += [*caption.prompts_train, caption.visual]
        texts[code] = own
    return texts


def heldout_texts() -> dict[str, str]:
    """The held-out prompt of each captioned emoji, by code points: for measuring only."""
    return {code: caption.prompt_heldout for code, caption in load_captions().items()}
