"""Run folders and what every training needs."""
