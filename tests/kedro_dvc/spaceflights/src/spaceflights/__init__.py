"""A project of the shape of Kedro's spaceflights tutorial."""
