"""MMLU's 57 subjects in four groups (Hendrycks et al. 2021). Refuses to know questions."""

_STEM = """abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics
college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology
high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics high_school_statistics
machine_learning"""
_HUMANITIES = """formal_logic high_school_european_history high_school_us_history high_school_world_history
international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law
world_religions"""
_OTHER = """business_ethics college_medicine human_aging management marketing medical_genetics miscellaneous nutrition
professional_accounting professional_medicine virology global_facts clinical_knowledge"""
_SOCIAL = """econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations
security_studies sociology us_foreign_policy"""

GROUPS = {
    "STEM": tuple(_STEM.split()),
    "humanities": tuple(_HUMANITIES.split()),
    "other": tuple(_OTHER.split()),
    "social sciences": tuple(_SOCIAL.split()),
}
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects}
