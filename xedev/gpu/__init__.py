"""What the hardware does: engines, the command streamer, the blitter, the GPU's clock."""
