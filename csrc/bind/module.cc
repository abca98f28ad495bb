// The Python face of the native code: the only place that throws. Each file of bind/ adds one idea to the module.
#include "bind.h"

NB_MODULE(_kbit, m) {
  m.doc() = "kbit's native kernels; use kbit.native, which validates what it passes on";
  kbit::bind_runtime(m);
  kbit::bind_packing(m);
  kbit::bind_rotation(m);
  kbit::bind_encode(m);
  kbit::bind_trellis(m);
  kbit::bind_matrix(m);
  kbit::bind_engine(m);
}
