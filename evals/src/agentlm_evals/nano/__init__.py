"""The text that agentlm-nano is trained on, made by this project itself from a seed. Refuses to know how it is trained."""
