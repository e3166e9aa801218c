"""A league: systems of all families, trained on the same images within the same time and judged alike.

`images` brings the user's images to one size and holds some out. `entries` makes a spec of each system for them.
`classifier` trains the network whose features judge samples. `results` are the figures, as a table and as a picture.
`latentc.api.league` trains, compiles, judges and times one entry after the other.
"""
