"""AgentTuning's central experiment in miniature: what a mixture of agent and general data does to a small model.

One base is trained on general chats and on copying, and tuned further on chats, on trajectories, or on mixtures of both,
several times each. Every result is played in worlds that were trained on, in worlds that were not, and asked plain
questions. `python -m bench.nano_study`.
"""
