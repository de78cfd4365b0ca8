"""Names and limits of the files of agents and networks."""

WEIGHTS, CARD = "weights.safetensors", "card.json"


KIND = "supervised checkpoint"
