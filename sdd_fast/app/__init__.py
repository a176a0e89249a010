"""The page of `sdd app`: edits by sliders, the reports of runs, and training, in a browser.

It stands on gradio, which is imported where a page is built: everything else is of this package.
"""
