"""Nms: greedy non-maximum suppression of boxes, class by class or level by level."""
