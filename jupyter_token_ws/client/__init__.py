"""A client of Jupyter servers: ``async with connect(url) as server``."""
