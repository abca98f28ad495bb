"""Which scheme each weight gets for a size or a time: bits go where the model is most sensitive.

ladder       the schemes that are tried, a table
units        the weights of a model, and what each would weigh under each scheme
encodings    candidate encodings of the weights by the inputs of the original model
derived      losses of trellis codes from those in other groups
sensitivity  loss of each (weight × scheme): a table that is kept, read back and asked
measured     ΔKL of the whole model with one weight encoded
predicted    the same from second moments of inputs and output gradients, for models too large to measure
knapsack     the best choice under a budget, exactly
latency      measured time of each weight's product under each scheme
budget       sizes and times that a user names, as budgets of the knapsack
solve        table + budget → plan
recipes      fast, good, best
gate         a few windows through the encoded model before it counts as done
"""
