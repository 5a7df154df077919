"""The results of a study and an ablation as numbers and tables, without prose."""
