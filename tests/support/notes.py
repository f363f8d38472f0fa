"""An observer that remembers what a run said."""

from jaxclf.run.observer import Observer


class Notes(Observer):
    """`notes`: the sentences, in their order."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)
