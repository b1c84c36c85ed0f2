"""`--help` of a command in plain text: its options under headings by use, in the order in which they are
declared.
"""

from typer.core import TyperCommand

OTHER = "Options"


class GroupedCommand(TyperCommand):
    """A command whose options are listed by their `rich_help_panel`; typer itself does so only with rich's
    slow help.
    """

    def format_options(self, ctx, formatter) -> None:
        arguments, groups = [], {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                # Several of a kind are already told by "...".
                arguments.append((record[0].replace("<list[str]>", "<str>"), record[1]))
            else:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or OTHER, []).append(record)
        # What has no heading of its own (--help at least) comes last.
        last = {OTHER: groups.pop(OTHER)} if OTHER in groups else {}
        for title, records in ({"Arguments": arguments} | groups | last).items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
