"""latentc: a compiler for class-conditional generative models.

    from latentc import api

    spec = api.check("dit", variant="S/2")
    api.emit("dit", "my-dit", variant="S/2")                       # a PyTorch training project
    api.compile("dit", "dit.pt", "dit-bundle", variant="S/2")      # an engine that holds the whole sampler

Every verb of the command line is a function of `latentc.api`. (They are not names of this package: `latentc.emit` is
the package that writes PyTorch.)
"""

__version__ = "0.1.0"
