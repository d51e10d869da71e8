"""Images for training.

What to load (spec), where it comes from (source; named, arrays, folders), how it is cut (splits), putting these together
(load), what comes out (images).
"""
