"""Files of fixtures/cases/ that a library has to write: Parquet with compressions that are not read.

    python scripts/make_row_cases.py
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CASES = Path(__file__).resolve().parent.parent / "fixtures" / "cases"
TABLE = pa.table({"prompt": ["2+2=", "2+3="], "completion": [" 4", " 5"]})

pq.write_table(TABLE, CASES / "file_parquet_brotli" / "lz4.parquet", compression="lz4")
# One column of two: the first that is read would be.
pq.write_table(TABLE, CASES / "file_parquet_brotli" / "mixed.parquet", compression={"prompt": "zstd", "completion": "brotli"})
