"""Ray actors: thin shells around engines, consolidation and the gate. No algorithm lives here.

Scorer actors own an engine and score candidates on support and validation; the reducer
consolidates and stages models; a gate actor holds one held-out split alone and evaluates on an engine
leased to it. Only seeds, amplitudes, texts and rewards travel. torch is imported in the actor's
process, never by the driver.
"""

import ray

from corp_ray.actors.held_out import Gate
from corp_ray.actors.reducer import Reducer
from corp_ray.actors.scorer import Scorer

ScorerActor = ray.remote(Scorer)
GateActor = ray.remote(Gate)
ReducerActor = ray.remote(Reducer)
