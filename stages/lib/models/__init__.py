"""MAE, DeiT and the RegNetY teacher on timm's blocks, and how weights are saved and loaded."""
