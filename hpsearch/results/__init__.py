"""What a study and an ablation found: numbers, without prose."""
