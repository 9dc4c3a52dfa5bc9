/* kernels/mpi_api.h against Open MPI's own header: what differs does not compile. */
#include <mpi.h>

#include "kernels/mpi_api.h"

_Static_assert(Q3_MPI_SUCCESS == MPI_SUCCESS, "MPI_SUCCESS");
_Static_assert((int)Q3_MPI_THREAD_SERIALIZED == (int)MPI_THREAD_SERIALIZED, "MPI_THREAD_SERIALIZED");
_Static_assert(sizeof(q3_mpi_comm) == sizeof(MPI_Comm), "MPI_Comm");
_Static_assert(sizeof(q3_mpi_type) == sizeof(MPI_Datatype), "MPI_Datatype");

/* Handles are the addresses of these objects. */
void *q3_check_mpi_world = &ompi_mpi_comm_world;
void *q3_check_mpi_byte = &ompi_mpi_byte;
