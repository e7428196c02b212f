//! The trunk's backward pass: head, norms and layers in reverse, gradients added to one flat buffer. A plan that kept the
//! layers' inputs alone computes each layer once more on the way.

use hilda_kernels::head::{LossRow, Losses};
use hilda_kernels::{At, Gate, Train};

use super::plan::Plan;
use super::trunk::{Masks, Shape, Trunk};
use crate::config::Mlp;

impl Trunk {
    /// Head forward and backward on chosen rows, then the trunk's backward pass: gradients are added to `grads`.
    /// Returns what the head says of each row. Must follow `forward` on the same plan and inputs.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<B: Train>(
        &self,
        b: &B,
        params: &B::Buf,
        grads: &mut B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        masks: &Masks<B>,
        shape: Shape,
        hidden_rows: &[u32],
        rows: &[LossRow],
    ) -> Losses {
        let (c, norm) = (&self.config, self.norm_shape(shape.rows()));
        let (n, d, a, hw) = (shape.rows(), c.width, c.heads * c.head_dim, c.head_width());
        let kv = c.kv_heads * c.head_dim;
        let k = rows.len();
        let bw = plan.back.as_mut().expect("a training plan");
        if bw.head_rows < k {
            // several targets per row (complementary views, editing): grow once
            (bw.rows, bw.d_rows, bw.index, bw.head_rows) = (b.buf(k * hw), b.buf(k * hw), b.ids(k), k);
        }
        b.write_ids(&mut bw.index, hidden_rows);
        b.gather(&plan.hidden, &bw.index, &mut bw.rows, k, hw);
        let backward = Some((&mut bw.d_rows, &mut *grads));
        let out = b.head_loss(&bw.rows, params, self.layout.head, rows, &c.forbid, hw, backward);
        b.scatter(&bw.d_rows, &bw.index, &mut bw.d_hidden, k, hw);
        b.zero(&mut bw.dx);
        let (w, bias) = (self.layout.norm, self.layout.norm_bias);
        let s = self.head_norm_shape(n);
        b.norm_backward(&bw.d_hidden, &plan.last, params, w, bias, &mut bw.dx, grads, s);
        let sets = plan.layers.len();
        for (i, w) in self.layout.layers.iter().enumerate().rev() {
            // the last layer's activations are still there
            if sets == 1 && i + 1 < c.layers {
                self.recompute(b, params, i, plan, positions, masks, shape);
            }
            let (x, l) = (&plan.inputs[i], &plan.layers[i % sets]);
            let bw = plan.back.as_mut().expect("a training plan");
            let dy =
                self.behind(b, params, grads, w.post2, w.down_bias, &l.post[1], &bw.dx, &mut bw.d_post, n);
            b.linear_backward_input(dy, params, w.down, &mut bw.d_act, n, d, c.mlp);
            self.activate(b, &l.gate_up, &mut plan.act, n);
            b.linear_backward_weight(dy, &plan.act, grads, w.down, n, d, c.mlp);
            match c.arch.mlp {
                Mlp::SwiGlu => b.glu_backward(Gate::Silu, &bw.d_act, &l.gate_up, &mut bw.d_gate_up, n, c.mlp),
                Mlp::GeGlu => b.glu_backward(Gate::Gelu, &bw.d_act, &l.gate_up, &mut bw.d_gate_up, n, c.mlp),
                Mlp::Gelu => b.gelu_backward(&bw.d_act, &l.gate_up, &mut bw.d_gate_up, n * c.mlp),
            }
            if let Some(bias) = w.up_bias {
                b.add_bias_backward(&bw.d_gate_up, grads, bias, n, c.mlp_in());
            }
            b.norm(&l.mid, params, w.norm2, w.norm2_bias, &mut plan.h, norm, false);
            b.linear_backward_weight(&bw.d_gate_up, &plan.h, grads, w.gate_up, n, c.mlp_in(), d);
            b.linear_backward_input(&bw.d_gate_up, params, w.gate_up, &mut bw.dh, n, c.mlp_in(), d);
            b.norm_backward(&bw.dh, &l.mid, params, w.norm2, w.norm2_bias, &mut bw.dx, grads, norm);

            let dy =
                self.behind(b, params, grads, w.post1, w.out_bias, &l.post[0], &bw.dx, &mut bw.d_post, n);
            b.linear_backward_weight(dy, &l.att, grads, w.out, n, d, a);
            b.linear_backward_input(dy, params, w.out, &mut bw.d_att, n, d, a);
            let (mask, s) = (self.mask_of(masks, i), self.attention_shape(shape));
            b.attention_backward(&bw.d_att, &l.qkv, &l.att, &l.lse, mask, &mut bw.d_qkv, s);
            b.rope_backward(&mut bw.d_qkv, positions, self.rope_shape(n, i));
            let d_qkv = match self.head_norms(w) {
                None => &bw.d_qkv,
                Some(heads) => {
                    b.zero(&mut bw.d_raw);
                    for (count, col, at) in heads {
                        let s = self.heads_norm_shape(n, count, col);
                        b.norm_backward(&bw.d_qkv, &l.raw, params, at, None, &mut bw.d_raw, grads, s);
                    }
                    b.copy_columns(&bw.d_qkv, c.qkv(), a + kv, &mut bw.d_raw, c.qkv(), a + kv, 0, n, kv);
                    &bw.d_raw
                }
            };
            if let Some(bias) = w.qkv_bias {
                b.add_bias_backward(d_qkv, grads, bias, n, c.qkv());
            }
            b.norm(x, params, w.norm1, w.norm1_bias, &mut plan.h, norm, false);
            b.linear_backward_weight(d_qkv, &plan.h, grads, w.qkv, n, c.qkv(), d);
            b.linear_backward_input(d_qkv, params, w.qkv, &mut bw.dh, n, c.qkv(), d);
            b.norm_backward(&bw.dh, x, params, w.norm1, w.norm1_bias, &mut bw.dx, grads, norm);
        }
        let bw = plan.back.as_ref().expect("a training plan");
        b.embed_backward(ids, &bw.dx, grads, self.layout.embed, c.arch.embed_scale, n, d);
        out
    }

    /// The gradient of what a linear layer gave, from the gradient of the residual stream: through the norm behind it,
    /// if there is one; the bias takes its share.
    #[allow(clippy::too_many_arguments)]
    fn behind<'a, B: Train>(
        &self,
        b: &B,
        params: &B::Buf,
        grads: &mut B::Buf,
        norm: Option<At>,
        bias: Option<At>,
        post: &B::Buf,
        dx: &'a B::Buf,
        d_post: &'a mut B::Buf,
        rows: usize,
    ) -> &'a B::Buf {
        let dy = match norm {
            None => dx,
            Some(norm) => {
                b.zero(d_post);
                b.norm_backward(dx, post, params, norm, None, d_post, grads, self.norm_shape(rows));
                d_post
            }
        };
        if let Some(bias) = bias {
            b.add_bias_backward(dy, grads, bias, rows, self.config.width);
        }
        dy
    }
}
