"""The topology file, and the weighted graph that it describes; knows neither torch nor NVFlare."""
