"""Tables, figures and the report of a study: begin with `comparison`, end with `report`.

Everything here is a function of tables. How a method is drawn (colour of its objective, symbol of
its family) is decided once, in `figures.method_styles`, and is the same everywhere.
"""
