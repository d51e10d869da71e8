"""Images for training: what to load (spec), where it comes from (named, arrays, folders), how it is cut (splits), what
comes out (images).
"""
