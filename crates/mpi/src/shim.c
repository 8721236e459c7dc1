/* What lorafit calls of MPI. Open MPI and MPICH have other types behind the same names, and so other calls in a library that is
 * compiled; of these functions both have the same. One exchange at a time: its request is kept here. Every function gives MPI's
 * code, of which 0 is success. */

#include <mpi.h>
#include <stddef.h>

static MPI_Comm group = MPI_COMM_NULL;
static MPI_Request request = MPI_REQUEST_NULL;

/* Begins. Errors of exchanges are returned, where MPI would end the process. */
int lorafit_mpi_begin(int *rank, int *size) {
  int given = 0;
  int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given);
  if (code == MPI_SUCCESS) code = MPI_Comm_dup(MPI_COMM_WORLD, &group);
  if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);
  if (code == MPI_SUCCESS) code = MPI_Comm_rank(group, rank);
  if (code == MPI_SUCCESS) code = MPI_Comm_size(group, size);
  return code;
}

/* Ends, when all processes do. */
int lorafit_mpi_end(void) { return MPI_Finalize(); }

/* All get `bytes` bytes of each, one behind the other. */
int lorafit_mpi_all_gather(const void *own, int bytes, void *all) {
  return MPI_Iallgather(own, bytes, MPI_BYTE, all, bytes, MPI_BYTE, group, &request);
}

/* All get the bytes of each, of other numbers of bytes. */
int lorafit_mpi_all_gather_bytes(const void *own, int bytes, void *all, const int *counts, const int *offsets) {
  return MPI_Iallgatherv(own, bytes, MPI_BYTE, all, counts, offsets, MPI_BYTE, group, &request);
}

/* Each gets a slice of the values of each. */
int lorafit_mpi_all_to_all(const float *values, const int *counts, const int *offsets, float *received,
                           const int *received_counts, const int *received_offsets) {
  return MPI_Ialltoallv(values, counts, offsets, MPI_FLOAT, received, received_counts, received_offsets, MPI_FLOAT, group,
                        &request);
}

/* All get the slice that each has of the same values. */
int lorafit_mpi_all_gather_slices(float *values, const int *counts, const int *offsets) {
  return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values, counts, offsets, MPI_FLOAT, group, &request);
}

/* Whether the exchange that was begun last is done. */
int lorafit_mpi_is_done(int *done) { return MPI_Test(&request, done, MPI_STATUS_IGNORE); }

/* What a code means, in at most MPI_MAX_ERROR_STRING (512) characters. */
int lorafit_mpi_error(int code, char *text, int *length) { return MPI_Error_string(code, text, length); }

/* Which MPI this is, in at most MPI_MAX_LIBRARY_VERSION_STRING (8192) characters. */
int lorafit_mpi_library(char *text, int *length) { return MPI_Get_library_version(text, length); }
