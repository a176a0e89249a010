"""The evidence: the paper's tables and figures, measured anew in any domain by one command.

plan                 how much is measured: prompts, seeds, images, budgets
case                 a domain, a plan and a store: what every part is measured in
subject, judge       images that lack a prompt's target; what an edit did to them
store                units of work, each kept as a file and found again by what it depends on
ours, editing, sets  every editor on every prompt, their seconds, FID and KID
together             the seconds of our own editor where all prompts are done as one
limited, curves, consistency          trainings under a limited budget; scores of timesteps
table, table1, table2, table3, hqs_study     what is measured, and the tables made of it
findings             what the tables say of the paper's claims
figures              the paper's figures
page                 everything as one page
paper                all of it, in the order in which a small whole table comes first
"""
