"""Thousands of connections, half of them slow, some cut mid-stream: is an answer lost, a block leaked, memory kept?"""
