"""What gRPC does wrongly, and what this client does instead: one module each, whose text answers the questions that
`tests/architecture/test_workarounds.py` asks (What, Why, Since, Costs, Goes).
"""
