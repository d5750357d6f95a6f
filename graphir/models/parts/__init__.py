"""The parts that Transformers are composed of: each a frozen declaration of what it may vary in, which builds it.

A part names its tensors as the documents' tables do (A 1.2.2, 1.3.3, 1.4.3, 1.5.3), in the scope of its block:
`embedding`, `layer0/mha`, `layer0/mlp`, …, `output`. Between linear maps and their biases, and between R and T, stand
names of our own (`Q_lin`, `Z_up_lin`), since the documents leave those edges bare.

    frame           what all parts of a graph share: the builder, its inputs, dropout, biases, how weights start
    norm            LN
    positions       how places are told apart
    embedding       from ids to X [B, S, D]
    attention       multi-head attention
    feed_forward    the MLP of a layer
    residual        how a layer's two blocks and their norms stand on the residual stream
    head            from X to logits, and the decoding branch
    loss            the mean cross entropy
"""
