"""x"""
from vgm.runs import load as load
