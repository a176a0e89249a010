"""The evidence: the paper's tables and figures, measured anew in any domain by one command.

plan         how much is measured: prompts, seeds, images, budgets
subject      what is measured on: images that lack a prompt's target
store        units of work, each kept as a file and found again by what it depends on
statistics   intervals, paired tests and rank correlations, over trainings or images
table1, table2, table3, hqs_study     what is measured, and the tables made of it
figures      the paper's figures
page         everything as one page
paper        all of it, in the order in which a small whole table comes first
"""
