"""Measuring: what a run or a model does on faces that it has not been trained on.

metrics.py     figures of one picture            figures.py    what each figure is called and how it is averaged
pictures.py    the fixed test pictures           baselines.py  what any model has to beat
features.py    feature distances (torch)         identity.py   face descriptors (torch), fetched once
measure.py     the loop over pictures            sheets.py     pictures of pictures
evaluate.py, protocols.py, compare.py, unmask.py, report.py    the commands
"""
