"""Studies of what really runs: a plan, a row a cell, a store that loses none.

plan        `StudyPlan` from TOML → cells        cell     what a row depends on, and its digest
columns     the typed columns of a row           store    SQLite; export: CSV and Parquet
measure     one cell → one row                   text     windows spread over a text; references: the originals' logits, kept
local       this machine's cores                 cluster  a Ray cluster
run         `run_study`: what is missing, measured; speed alone, last
"""
