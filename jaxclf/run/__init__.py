"""A recipe from start to end: data in, a RUN folder out."""
