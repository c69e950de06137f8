"""Models whose evidence and posterior are known exactly, to certify estimators with."""

from vgm.oracles import beta_bernoulli as beta_bernoulli
from vgm.oracles import certificate as certificate
from vgm.oracles import enumeration as enumeration
from vgm.oracles import linear_chain as linear_chain
from vgm.oracles import linear_gaussian as linear_gaussian
from vgm.oracles import quadrature as quadrature
from vgm.oracles import targets as targets
from vgm.oracles.certificate import certify as certify
