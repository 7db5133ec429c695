"""JupyterLab by `make lab`: a saved notebook whose cells have all run gets its page in the report."""

from collabopt.batch.by_hand import save_in_lab

c.FileContentsManager.post_save_hook = save_in_lab  # noqa: F821 - Jupyter gives `c`
