"""Where a run takes place, and how long it may take.

It never loads anything, and knows neither the request behind a run nor the model in it.
"""
