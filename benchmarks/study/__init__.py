"""The parts of `recipe_study`: its data sets, its sides, how they are judged, and its tables."""
