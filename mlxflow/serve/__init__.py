"""A model behind a page and an API on this machine: `mlxflow serve` (extra `web`).

worker.py    one thread that owns the model: a bounded queue, the most urgent job first, a step at a time
drawing.py   what the page asks for: drafts, then fine pictures, and files of them; pictures are remembered
asked.py     what a request may ask of the model, and what files say of it
images.py    POST /v1/images/generations as OpenAI's API has it
security.py  which requests are answered at all
metrics.py   numbers for /metrics
app.py       the routes
server.py    the address, and how it starts and stops
page/        the page: HTML, CSS and JavaScript as the browser gets them
"""
