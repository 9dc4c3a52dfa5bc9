/* kernels/mpi_api.h - the part of Open MPI's interface that core/group.c calls, in our own words.
 *
 * MPI fixes names and meanings, not the binary interface; this is that of Open MPI 4 and 5 (libmpi.so.40), whose handles
 * are addresses of objects in the library. tests/core/check_mpi_abi.c compares it with mpi.h where that is installed.
 */
#ifndef Q3_KERNELS_MPI_API_H
#define Q3_KERNELS_MPI_API_H

typedef void *q3_mpi_comm; /* MPI_Comm: the address of ompi_mpi_comm_world */
typedef void *q3_mpi_type; /* MPI_Datatype: the address of ompi_mpi_byte */

enum {
    Q3_MPI_SUCCESS = 0,
    Q3_MPI_THREAD_SERIALIZED = 2, /* any thread may call, one at a time */
};
#define Q3_MPI_STATUS_IGNORE ((void *)0)

typedef int q3_mpi_init_thread(int *argc, char ***argv, int required, int *provided);
typedef int q3_mpi_finalize(void);
typedef int q3_mpi_comm_number(q3_mpi_comm comm, int *out); /* MPI_Comm_rank, MPI_Comm_size */
typedef int q3_mpi_barrier(q3_mpi_comm comm);
typedef int q3_mpi_abort(q3_mpi_comm comm, int code);
typedef int q3_mpi_bcast(void *x, int n, q3_mpi_type type, int root, q3_mpi_comm comm);
typedef int q3_mpi_allgather(const void *own, int n, q3_mpi_type type, void *all, int n_each,
                             q3_mpi_type type_each, q3_mpi_comm comm);
typedef int q3_mpi_send(const void *x, int n, q3_mpi_type type, int to, int tag, q3_mpi_comm comm);
typedef int q3_mpi_recv(void *x, int n, q3_mpi_type type, int from, int tag, q3_mpi_comm comm, void *status);

#endif
