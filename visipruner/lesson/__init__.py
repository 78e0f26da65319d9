"""A lesson: steps that predict, run, reveal and explain; read from a file, played by the page.

To write another one: a JSON file like lesson.json, opened with `python app.py --lesson FILE`.
"""
