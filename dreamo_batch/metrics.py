"""Metrics of identity: embeddings, the match of picture and prompt, and faces (extra ``identity``).

Pass one to `dreamo_batch.measure` or `dreamo_batch.rank`, or its name: ``"identity"``, ``"prompt_match"``, ``"face"``.

Examples
--------
>>> import dreamo_batch as dreamo
>>> [dreamo.metrics.Embedding().name, dreamo.metrics.PromptMatch().name, dreamo.metrics.Face().name]
['dinov2-small', 'prompt_match', 'face']
"""

from dreamo_batch.results.embeddings import Embedding, Face, PromptMatch

__all__ = ["Embedding", "Face", "PromptMatch"]
