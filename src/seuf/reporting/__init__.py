"""Tables, figures and the report of a study: begin with `comparison`, end with `report`.

Everything here is a function of tables. A method's look (colour of its objective, symbol of its
family) is decided once, in `looks`, and is the same in every figure and in the report's table.
"""
