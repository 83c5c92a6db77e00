"""The fitting core: for each part, the codes that lose least. Group fitters choose scales, the sweep feeds errors
forward."""
