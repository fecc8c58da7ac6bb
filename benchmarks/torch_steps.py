"""The steps of benchmarks/step.py, as a user of PyTorch and transformers writes them.

A loss is a function (w, batch) -> scalar, of the same mathematics and fields `c` as the method of
that name in kdjax/methods, without its metrics. w: World. batch: tokens, segments, mask (as a
tokenizer gives it), maskable, label, index.

Where there is a choice, the quicker way is taken: scaled dot-product attention, fused AdamW as of
transformers' Trainer, a masked-LM head on hidden places alone, negatives from a table.
"""

import copy
import types

import torch
import torch.nn.functional as F
import transformers

World = types.SimpleNamespace


def world(c, folders, ordinary, mask_id: int, labels, device, attention: str = 'sdpa') -> World:
  """Models by role from folders, in train mode but for the teacher, and what a method adds.

  c: the method's fields. ordinary: bool[V]. labels: i64[n] of the training set.
  """
  kinds = dict(generator=transformers.AutoModelForMaskedLM)
  w = World(c=c, mask_id=mask_id, ordinary=ordinary.to(device), labels=labels.to(device))
  for name, folder in folders.items():
    kind = kinds.get(name, transformers.AutoModelForSequenceClassification)
    model = kind.from_pretrained(folder, attn_implementation=attention).to(device).float().train()
    setattr(w, name, model)
  w.teacher.eval().requires_grad_(False)
  start = STARTS.get(c.name)
  if start:
    start(w, device)
  return w


def owned(w, player: str) -> list[torch.nn.Parameter]:
  """What a player's turn trains; the rest of the models is told that it has no gradient."""
  w.student.requires_grad_(player == 'student')
  if player == 'generator':
    w.generator.requires_grad_(True)
    heads = w.heads.parameters() if w.c.name == 'cilda' else ()
    return [*w.generator.parameters(), *heads]
  heads = w.heads.parameters() if w.c.name == 'codir' else ()
  return [*w.student.parameters(), *heads]


def adamw(params, rate: float, decay: float, betas, eps: float, turns: int, kind: str = 'fused'):
  """(optimizer, schedule): no decay on vectors, linear warm-up over a tenth and decay."""
  groups = [
    dict(params=[p for p in params if p.ndim > 1], weight_decay=decay),
    dict(params=[p for p in params if p.ndim < 2], weight_decay=0.0),
  ]
  how = {} if kind == 'default' else {kind: True}
  optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, **how)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, turns // 10, turns)
  return optimizer, schedule


def turn(w, loss, params, optimizer, schedule, batch, clip: float, dtype=None) -> torch.Tensor:
  """One update; dtype: of torch.autocast, None for float32 throughout."""
  device = batch['tokens'].device.type
  optimizer.zero_grad(set_to_none=True)
  with torch.autocast(device, dtype, enabled=dtype is not None):
    value = loss(w, batch)
  value.backward()
  torch.nn.utils.clip_grad_norm_(params, clip)
  optimizer.step()
  schedule.step()
  return value.detach()


def ask(model, batch, tokens=None, embeds=None, **more):
  """The model's output on the batch, on other ids, or on other word embeddings."""
  if embeds is not None:
    more['inputs_embeds'] = embeds
  else:
    more['input_ids'] = batch['tokens'] if tokens is None else tokens
  if model.config.type_vocab_size > 1:
    more['token_type_ids'] = batch['segments']
  return model(attention_mask=batch['mask'], **more)


def table(model):
  """The word embeddings [V, D]."""
  return model.get_input_embeddings().weight


def soft_kl(student, teacher, temperature: float):
  """T^2 KL(teacher || student), mean over the batch."""
  student, teacher = (F.log_softmax(x.float() / temperature, -1) for x in (student, teacher))
  return temperature**2 * F.kl_div(student, teacher, reduction='batchmean', log_target=True)


def finetune(w, batch):
  return F.cross_entropy(ask(w.student, batch).logits.float(), batch['label'])


def kd(w, batch, teacher=None):
  teacher = taught(w, batch) if teacher is None else teacher
  return _kd(w.c, ask(w.student, batch).logits, teacher, batch)


def taught(w, batch, **inputs):
  with torch.no_grad():
    return ask(w.teacher, batch, **inputs).logits


def _kd(c, student, teacher, batch):
  hard = F.cross_entropy(student.float(), batch['label'])
  return c.hard * hard + c.soft * soft_kl(student, teacher, c.temperature)


def _with(w, batch, tokens, teacher=None):
  """KD on the text and on new text for both models; teacher: its logits on the text, if known."""
  total = kd(w, batch, teacher)
  student = ask(w.student, batch, tokens).logits
  total = total + w.c.augmented * soft_kl(student, taught(w, batch, tokens=tokens), w.c.temperature)
  if w.c.hard_new:
    total = total + w.c.hard_new * F.cross_entropy(student.float(), batch['label'])
  return total


@torch.no_grad()
def nearest(queries, words, ordinary):
  """Ids [B, L] of the ordinary rows nearest to queries [B, L, D], in float32 always."""
  with torch.autocast(queries.device.type, enabled=False):
    penalty = torch.where(ordinary, words.square().sum(1) / 2, torch.inf)
    scores = torch.addmm(-penalty, queries.reshape(-1, words.shape[1]), words.T)
    return scores.argmax(1).view(queries.shape[:2])


def augpro(w, batch, partner=None, lam=None):
  tokens, words = batch['tokens'], table(w.student).detach()
  if partner is None:
    partner = torch.randperm(len(tokens), device=tokens.device)
    lam = torch.rand(tokens.shape, device=tokens.device)
  e = words[tokens]
  near = nearest(torch.lerp(e[partner], e, lam[..., None]), words, w.ordinary)
  usable = batch['maskable'] & batch['maskable'][partner]
  return _with(w, batch, torch.where(usable, near, tokens))


def augpro_fgsm(w, batch):
  words, training = table(w.student).detach(), w.student.training
  e = words[batch['tokens']].requires_grad_()
  w.student.eval()
  teacher = taught(w, batch)
  gap = soft_kl(ask(w.student, batch, embeds=e).logits, teacher, w.c.temperature)
  (gradient,) = torch.autograd.grad(gap, e)
  w.student.train(training)
  near = nearest(e.detach() + w.c.epsilon * gradient.sign(), words, w.ordinary)
  return _with(w, batch, torch.where(batch['maskable'], near, batch['tokens']), teacher)


def guesses(w, batch):
  """(hidden bool[B, L], logits f32[hidden places, V]) of the generator."""
  drawn = torch.rand(batch['mask'].shape, device=batch['mask'].device)
  hidden = batch['maskable'] & (drawn < w.c.rho)
  masked = batch['tokens'].masked_fill(hidden, w.mask_id)
  states = ask(w.generator.base_model, batch, masked).last_hidden_state
  head = w.generator.cls if hasattr(w.generator, 'cls') else w.generator.lm_head
  logits = head(states[hidden]).float()
  return hidden, logits.masked_fill(~w.ordinary, torch.finfo(torch.float32).min)


def mate_kd(w, batch):
  with torch.no_grad():
    hidden, logits = guesses(w, batch)
    ids = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
    tokens = batch['tokens'].masked_scatter(hidden, ids)
  return _with(w, batch, tokens)


def adversary(w, batch, hidden_states=False):
  """Outputs of student and teacher on what the generator writes, with its gradient."""
  hidden, logits = guesses(w, batch)
  one_hot = F.gumbel_softmax(logits, w.c.gumbel, hard=True)

  def read(model):
    words = table(model)
    e = words[batch['tokens']].index_put((hidden,), (one_hot @ words).to(words.dtype))
    return ask(model, batch, embeds=e, output_hidden_states=hidden_states)

  return read(w.student), read(w.teacher)


def mate_kd_generator(w, batch):
  student, teacher = adversary(w, batch)
  return -w.c.gen_gap * soft_kl(student.logits, teacher.logits, w.c.temperature)


def pooled(out, layers):
  """First-token states of layers (counted from 1) as one vector [B, layers * D]."""
  return torch.cat([out.hidden_states[l][:, 0] for l in layers], -1).float()


def cilda_generator(w, batch):
  student, teacher = adversary(w, batch, hidden_states=True)
  found = soft_kl(student.logits, teacher.logits, w.c.temperature)
  v, u = (
    F.normalize(w.heads[n](pooled(out, range(1, len(out.hidden_states)))), dim=-1)
    for n, out in enumerate((student, teacher))
  )
  own = torch.arange(len(u), device=u.device)
  contrast = F.cross_entropy((u @ v.T).float() / w.c.tau, own)
  return -w.c.gen_gap * found - w.c.gen_contrast * contrast


def heads(w, device, student_layers: int, teacher_layers: int) -> None:
  """Linear heads of student and teacher."""
  sizes = (student_layers, w.student), (teacher_layers, w.teacher)
  w.heads = torch.nn.ModuleList(
    torch.nn.Linear(n * model.config.hidden_size, w.c.dims) for n, model in sizes
  ).to(device)


def start_cilda(w, device):
  heads(w, device, *(m.config.num_hidden_layers for m in (w.student, w.teacher)))


def start_codir(w, device):
  """Banks of n rows, and by label the rows that are negatives."""
  N = w.teacher.config.num_hidden_layers
  heads(w, device, w.student.config.num_hidden_layers, len(range(1, N + 1, 2)))
  n, r = len(w.labels), (3 / w.c.dims) ** 0.5
  w.banks = [torch.empty(n, w.c.dims, device=device).uniform_(-r, r) for _ in range(2)]
  w.others = [torch.nonzero(w.labels != label)[:, 0] for label in range(int(w.labels.max()) + 1)]
  least = min(map(len, w.others))
  w.others = torch.stack([rows[:least] for rows in w.others])
  w.log_z = None


def codir(w, batch):
  c, n = w.c, len(w.labels)
  student = ask(w.student, batch, output_hidden_states=True)
  with torch.no_grad():
    teacher = ask(w.teacher, batch, output_hidden_states=True)
  total = _kd(c, student.logits, teacher.logits, batch)
  blocks = len(teacher.hidden_states) - 1
  picks = range(1, len(student.hidden_states)), range(1, blocks + 1, 2)
  with torch.autocast(total.device.type, enabled=False):
    v = [
      F.normalize(head(pooled(out, pick)), dim=-1)
      for head, out, pick in zip(w.heads, (student, teacher), picks, strict=True)
    ]
    B = len(batch['label'])
    drawn = torch.randint(w.others.shape[1], (B, c.negatives), device=total.device)
    rows = torch.cat([batch['index'][:, None], w.others[batch['label'][:, None], drawn]], 1)
    scores = [
      torch.einsum('be,bke->bk', anchor, bank[rows]) / c.tau
      for anchor, bank in zip(v, w.banks[::-1], strict=True)
    ]
    if w.log_z is None:
      w.log_z = [(n * s.exp().mean()).log().detach() for s in scores]
    contrast, share = 0.0, c.negatives / n
    for s, log_z in zip(scores, w.log_z, strict=True):
      p = (s - log_z).exp()
      contrast = contrast - (p[:, 0] / (p[:, 0] + share + 1e-7)).log().mean()
      contrast = contrast - (share / (p[:, 1:] + share + 1e-7)).log().sum(1).mean()
    with torch.no_grad():
      for bank, x in zip(w.banks, v, strict=True):
        new = c.momentum * bank[batch['index']] + (1 - c.momentum) * x
        bank[batch['index']] = F.normalize(new, dim=-1)
  return total + c.weight * contrast / 2


@torch.no_grad()
def start_backward_kd(w, device):
  """The student of the round, and the least-squares map of the teacher's table to its own."""
  del device
  w.anchor = copy.deepcopy(w.student).eval().requires_grad_(False)
  teacher, student = (table(m)[w.ordinary] for m in (w.teacher, w.student))
  square = teacher.T @ teacher
  square += w.c.ridge * square.diagonal().mean() * torch.eye(len(square), device=square.device)
  w.map = torch.linalg.solve(square, teacher.T @ student)  # [T, S]


def backward_kd(w, batch):
  c, tokens, free = w.c, batch['tokens'], batch['maskable'][..., None]
  start = table(w.teacher)[tokens]

  def mapped(z, model):
    own = table(model)[tokens]
    return torch.where(free, own + (z - start) @ w.map, own)

  z = start
  for _ in range(c.steps):
    z = z.detach().requires_grad_()
    student = ask(w.anchor, batch, embeds=mapped(z, w.anchor)).logits.float()
    gap = (student - ask(w.teacher, batch, embeds=z).logits.float()).square().sum()
    (gradient,) = torch.autograd.grad(gap, z)
    moved = z.detach() + c.rate * torch.where(free, gradient, 0.0) - start
    norm = moved.square().sum((1, 2), keepdim=True).sqrt()
    z = start + moved * (c.cap / norm.clamp(min=c.cap))
  student = ask(w.student, batch, embeds=mapped(z, w.student)).logits
  total = kd(w, batch)
  return total + c.augmented * soft_kl(student, taught(w, batch, embeds=z), c.temperature)


STARTS = dict(cilda=start_cilda, codir=start_codir, backward_kd=start_backward_kd)
LOSSES = {
  'finetune': finetune,
  'kd': kd,
  'augpro': augpro,
  'augpro_fgsm': augpro_fgsm,
  'mate_kd': mate_kd,
  'mate_kd generator': mate_kd_generator,
  'cilda': mate_kd,
  'cilda generator': cilda_generator,
  'codir': codir,
  'backward_kd': backward_kd,
}
