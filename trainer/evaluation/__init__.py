"""Measuring: what a run or a model does on faces that it has not been trained on.

On prepared faces: `pictures` (the fixed test pictures), `baselines`, `metrics` and `figures` (what is computed, how it
is summed up), `features` and `identity` (networks that judge), `measure` (the loop). Through the tool's own stages:
`photos`, `clips`, `video`, `engine`. Results: `record`, `tables`, `sheets`. Commands: `evaluate` (with `protocols`),
`compare`, `unmask`, `report`.
"""
