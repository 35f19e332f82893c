"""Pictures of what models learned: functions that return arrays, and functions that draw them."""

from vitlab import exported

_PLACES = {
    "agreement": ["draw_agreement"],
    "attention": ["attention_distance", "input_map", "query_at", "query_map"],
    "canvas": ["show_image", "to_pixels"],
    "figures": [
        *("draw_distances", "draw_filters", "draw_heads", "draw_images", "draw_maps", "draw_positions"),
        "draw_reconstructions",
    ],
    "image_logging": ["some_images"],
    "measures": ["filter_components", "position_similarity"],
    "windows": ["draw_masks", "draw_pictures", "draw_tokens", "regions"],
}
__all__, __getattr__ = exported("vitlab.analysis", _PLACES)
