"""The aligner: a small network that finds eye corners, nose bridge and nose tip in a loose crop, masked or not.

`data` cuts loose crops of prepared faces, `augment` draws samples from them, `network` is the net, `train` trains it,
`real` labels faces that really wear masks, `evaluate` prints its figures, `export` writes the file that ships.
"""
