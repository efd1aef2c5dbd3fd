"""Tables, figures and the report of a study: begin with `comparison`, end with `report`.

Everything here is a function of tables. How a method is drawn (colour and symbol of who is trained,
a panel for each objective) is decided once, in `styles.method_styles`, and is the same everywhere.
"""
