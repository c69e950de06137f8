"""Models whose evidence and posterior are known exactly, to certify estimators with."""

from vgm.oracles import linear_gaussian as linear_gaussian
