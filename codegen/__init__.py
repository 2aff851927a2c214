"""Lower a Gluon graph with LSTMs through Apache TVM to native kernels (gluonlstm.codegen)."""
