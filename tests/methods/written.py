"""What MATE-KD's generator writes, by hand, and what the models are given to read."""

import dataclasses

import jax
import jax.numpy as jnp

from kdjax import augment
from kdjax.methods import masking
from tests import tiny

ROLES = ('student', 'teacher', 'generator')


def spied(env, seen: dict):
  """The environment, whose models leave in `seen` the word embeddings that they last encoded."""

  def spy(name):
    model = getattr(env, name)

    def encode(params, e_BLE, *args):
      seen[name] = e_BLE
      return model.encode(params, e_BLE, *args)

    return dataclasses.replace(model, encode=encode)

  return env._replace(**{name: spy(name) for name in ROLES})


def guesses(c, env, params, batch, key):
  """(slots, hidden, logits [B, K, V]) of the generator without dropout; key: of what is hidden."""
  room = masking.capacity(tiny.LENGTH, c.rho, c.slack)
  slots_BK, hidden_BL, _ = masking.hide(key, batch['maskable'], c.rho, room)
  masked = batch | dict(tokens=jnp.where(hidden_BL, tiny.MASK, batch['tokens']))
  logits_BLV = env.generator(params['generator'], masked).logits
  logits_BLV = jnp.where(env.ordinary[None, None], logits_BLV, -1e9)
  return slots_BK, hidden_BL, masking.take(logits_BLV, slots_BK)


def text(c, env, params, batch, key):
  """(one-hots f32[B, L, V], hidden bool[B, L]) of the generator's own turn; key: its loss's.

  Differentiable: both models may read the one-hots themselves.
  """
  k_fill, _, k_sample, _, _ = jax.random.split(key, 5)
  slots_BK, hidden_BL, logits_BKV = guesses(c, env, params, batch, k_fill)
  words_BKV = augment.gumbel_one_hot(logits_BKV, k_sample, c.gumbel)
  hots_BLV = jax.nn.one_hot(batch['tokens'], tiny.VOCAB)
  return masking.put(hots_BLV, slots_BK, words_BKV), hidden_BL


def read(env, params, batch, hots_BLV):
  """Outputs of student and teacher on one-hots."""
  nets = [(getattr(env, name), params[name]) for name in ('student', 'teacher')]
  return [net.enter(own, batch, net.embed(own, hots_BLV)) for net, own in nets]
